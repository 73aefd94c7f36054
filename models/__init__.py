"""The captioning network: CLIP encoder, mapping network, decoder, and how captions are decoded from them."""
