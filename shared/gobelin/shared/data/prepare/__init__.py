"""Public data sets brought into the formats that sources read: one command each."""
