"""Lightning's module, the state of its lanes, schedules and callbacks."""
