"""The same architecture in code bases that different people wrote, each converted into every other: `make zoo`."""
