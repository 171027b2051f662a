"""Where the weights of models come from: built in, a folder, a checkpoint of another program."""
