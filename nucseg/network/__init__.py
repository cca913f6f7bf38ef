"""The U-Net, its training and its predictions, on Keras."""
