"""The descriptor pool that the stubs of the Open Inference Protocol have to themselves.

Other clients of the protocol register the same names (`inference.ModelInferRequest`) in protobuf's process-wide pool,
where a second registration is a TypeError. See docs/decisions/0003-own-descriptor-pool-for-oip.md.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
