"""Items to MindRecord: encoding, packing, writing."""
