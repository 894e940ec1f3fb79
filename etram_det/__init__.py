"""Object detection on event-camera recordings of traffic."""

__version__ = "0.1.0"
