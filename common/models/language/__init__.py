"""Language models in plain torch: encoders and decoders as their config.json says, under Hugging Face's names of weights.

A model reads tokens, int64 (n, t), with PADDING behind those of an example that has fewer than the longest of its batch, and what it
says of an example does not depend on the rest of the batch. Linear layers compute on 2-D inputs (`linear`). Attention is written in
plain operations, which the exporter turns into ONNX's own. There is no dropout.
"""
