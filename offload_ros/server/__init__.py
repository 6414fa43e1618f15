"""The server: sessions, bounded queue, execution; without ROS."""
