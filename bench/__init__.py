"""What is measured: speed and size by `bench`, endurance by `bench.ordeal`."""
