"""What a process says of the store it holds."""

from headrace.errors import NotPrimary
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import stores_pb2, stores_pb2_grpc
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, StoreRole


def ask_primary(stores: stores_pb2_grpc.StoresStub, name: str, operation: Operation) -> stores_pb2.Store:
    """Ask what a store is.

    Raises:
        NotPrimary: The process holds it, but does not serve it.
    """
    request = stores_pb2.GetStoreRequest(name=name)
    store = operation.track(stores.GetStore.future(request, timeout=operation.remaining_s)).result()
    role, term = store.assignment.role, store.assignment.term
    if store.HasField("assignment") and role != STORE_ROLE_PRIMARY:
        is_now = StoreRole.Name(role).removeprefix("STORE_ROLE_").lower()
        raise NotPrimary(
            f"{name} is {is_now} here in term {term}; ask its primary",
            metadata={"primary": store.assignment.replica},
        )
    return store
