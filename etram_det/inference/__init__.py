"""A trained detector on a stream of events: engine, placement, tracking, writing."""
