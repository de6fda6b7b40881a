"""Studies: functions that return a Study; the only readers of the catalogues."""
