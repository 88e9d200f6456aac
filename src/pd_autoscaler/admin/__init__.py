"""The controller's admin API and web page: a view of the newest report, and an operator's hand."""
