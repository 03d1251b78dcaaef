"""The chrome of pages an operator keeps open: templates, style, charts, live updates, a token."""
