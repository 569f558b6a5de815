"""What the steps compute: pure functions from DataFrames to DataFrames that read, write and configure nothing."""
