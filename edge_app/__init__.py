"""The appliance: frames in, focus out, served over gRPC."""
