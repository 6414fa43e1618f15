"""Small KAPAO networks, trained on people in simulated rooms."""
