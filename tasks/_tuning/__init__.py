"""The parts of tuning: what is searched (plan), where it is kept (journal, record), what a trial may see (view), how it is run and chosen."""
