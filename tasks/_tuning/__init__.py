"""The parts of tuning: what is searched (plan), where it is kept (journal, record), what a trial sees (view), how it runs and is chosen."""
