"""Run networks over texts and pictures, and keep what their modules return."""
