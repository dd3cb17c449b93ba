"""The passes of a pipeline, one file each: they compute with torch and onnxruntime and write files into the folder they are given."""
