"""These tests need PyTorch and run in CI: ``pytest tests/differential``."""
