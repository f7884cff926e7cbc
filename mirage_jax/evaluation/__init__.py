"""How well a world is remembered: metrics, controls, results and the report."""
