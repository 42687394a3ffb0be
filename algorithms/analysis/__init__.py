"""What a trained model's package does well and badly: pure functions of scores and data, and the verb that runs them (``explain``)."""
