"""What only development needs: simulators, the demo, servers that come along. No production server loads it."""
