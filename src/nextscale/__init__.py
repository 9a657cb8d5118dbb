"""Visual autoregressive modelling: tokenizer, next-scale transformer, sampler, training and evaluation."""
