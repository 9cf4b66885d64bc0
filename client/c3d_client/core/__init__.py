"""What every part shares, without decoder, gRPC or NumPy: contract, errors, files, signals."""
