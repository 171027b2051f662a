"""The families of models: each folder holds a configuration, the arithmetic around the network, and the network."""
