"""Shared memory on the wire: the six rpcs about it."""

from headrace.errors import NotFound, Unimplemented
from headrace.inference.oip.v2 import shared_memory_pb2 as pb
from headrace.rpc.authorization import current_principal
from headrace_inference.shared_memory import Extent, Regions

NO_GPU = "this server reads no memory of GPUs; use system shared memory, or send contents"


class SystemRegions:
    """Shared memory of this machine, of the caller's project."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        """List regions."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._regions.list(current_principal().project, request.name):
            extent = region.extent
            response.regions[region.name].CopyFrom(
                pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name, key=extent.key, offset=extent.offset, byte_size=extent.size_bytes
                )
            )
        return response

    def register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Make a region known."""
        extent = Extent(request.key, request.offset, request.byte_size)
        self._regions.register(current_principal().project, request.name, extent)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all."""
        self._regions.unregister(current_principal().project, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()


class CudaRegions:
    """Shared memory of GPUs, which this server does not read: there is never a region of it.

    Clients ask for it, and forget all of it, before they choose what to use.
    """

    def status(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        """List regions: none."""
        if request.name:
            raise NotFound(f"CUDA shared memory region {request.name!r} is not registered; {NO_GPU}")
        return pb.CudaSharedMemoryStatusResponse()

    def register(self, _: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        """Refuse a region."""
        raise Unimplemented(NO_GPU)

    def unregister(self, _: pb.CudaSharedMemoryUnregisterRequest) -> pb.CudaSharedMemoryUnregisterResponse:
        """Forget regions: none is left."""
        return pb.CudaSharedMemoryUnregisterResponse()
