"""Why no result comes: one small check per possible cause; only ``nodes.doctor`` knows ROS."""
