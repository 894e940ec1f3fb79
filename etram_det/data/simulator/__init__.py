"""The traffic simulator: bodies, scene, picture, events."""
