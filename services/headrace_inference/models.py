"""The models of this server: loaded, switched and unloaded while requests come."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from headrace.errors import DeadlineExceeded, HeadraceError, NotFound, Unimplemented
from headrace.names import ModelName
from headrace.rpc.deferred import Answer, Deferred
from headrace_inference.core.answers import digest_of
from headrace_inference.core.batching import NO_TERMS, Arrays, Terms
from headrace_inference.core.catalog import Catalog, Key, Listing, Source
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.engine import Engine, EngineClosed, Watch
from headrace_inference.eviction import Evicted
from headrace_inference.loader import Loader, Model
from headrace_inference.members import MembersOf
from headrace_inference.memory import give_back_memory
from headrace_inference.metrics import ModelMetrics

log = structlog.get_logger()


class Models:
    """Loads models by name and finds who answers; thread-safe.

    Args:
        drain_s: How long the requests of a model that is replaced or unloaded get to end, in seconds. Those that run
            longer still end; only nobody waits for them.
        evicts: Whether idle models make room for others, and come back when they are asked for.
    """

    def __init__(
        self,
        catalog: Catalog[Model],
        loader: Loader,
        metrics: ModelMetrics,
        *,
        drain_s: float,
        evicts: bool = False,
    ) -> None:
        self._catalog = catalog
        self._loader = loader
        self._metrics = metrics
        self._drain_s = drain_s
        self._evicts = evicts
        self._evicted = Evicted(self._load_again)
        self._answering = threading.Lock()
        self._changing: set[Key] = set()
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of a model's state; it must return at once and not call back."""
        with self._changed:
            self._listeners.append(listener)

    def listings(self, project: str | None = None) -> list[Listing]:
        """List all models, or those of one project, by name."""
        with self._changed:
            listings = self._catalog.listings(project)
        return listings + self._evicted.listings(project)

    def find(self, key: Key, version: str = "") -> Model:
        """Return the model that answers.

        Raises:
            NotFound: It is not loaded.
            Unavailable: It had to make room, and is being loaded again.
        """
        try:
            with self._changed:
                return self._catalog.find(key, version)
        except NotFound:
            coming = self._evicted.ask(key)
            if coming is None:
                raise
        raise coming

    def ready(self, project: str) -> list[Model]:
        """Return the models of a project that answer, by name."""
        with self._changed:
            return self._catalog.ready(project)

    def enter(
        self,
        key: Key,
        version: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        *,
        timeout_s: float | None,
        watch: Watch,
        terms: Terms = NO_TERMS,
    ) -> Answer[tuple[Model, Arrays]]:
        """Have a model run once; the answer is which one answered, and the outputs in the wished order.

        Whoever is given an answer must call its `wait` or its `then`.

        Raises:
            NotFound: The model, or this version of it, is not loaded.
            InvalidArgument: Names, types or shapes are not the model's, or it cannot run these values.
            ResourceExhausted, DeadlineExceeded, Cancelled: As `Engine.enter`; here, or by the answer.
        """
        while True:
            model = self.find(key, version)
            engine, wished = self._check(model, inputs, outputs)
            digest = b"" if model.answers is None else digest_of(inputs, wished)
            if (kept := self._kept(model, digest)) is not None:
                return kept
            try:
                place = engine.enter(inputs, wished, timeout_s, watch, terms)
            except EngineClosed:
                continue  # replaced or unloaded in this very moment: ask again who answers
            return place.map(partial(self._answer, model, digest))

    def _kept(self, model: Model, digest: bytes) -> Answer[tuple[Model, Arrays]] | None:
        """Return the answer to an equal request, if there was one."""
        if model.answers is None:
            return None
        with self._answering:
            kept = model.answers.find(digest)
        if kept is None:
            return None
        answer: Deferred[tuple[Model, Arrays]] = Deferred()
        answer.settle((model, kept))
        return answer

    def _answer(self, model: Model, digest: bytes, outputs: Arrays) -> tuple[Model, Arrays]:
        if model.answers is not None:
            with self._answering:
                model.answers.keep(digest, outputs)
        return model, outputs

    @staticmethod
    def _check(model: Model, inputs: Arrays, outputs: tuple[str, ...]) -> tuple[Engine, tuple[str, ...]]:
        """Return who runs a request that fits the model, and the names of the wished outputs."""
        try:
            if isinstance(model.engine, DecoupledEngine):
                raise Unimplemented(
                    f"model {model.key.model!r} gives any number of answers; ask it on ModelStreamInfer"
                )
            model.signature.check_inputs(inputs)
            return model.engine, model.signature.choose_outputs(outputs)
        except HeadraceError as error:
            model.engine.statistics.failed(error.reason, 0.0)
            raise

    def load(self, key: Key, reference: str, file: str, timeout_s: float | None, *, config: str = "") -> None:
        """Load a model beside what answers now, then switch; what is served already is left as it is.

        Args:
            reference: As `Loader.find`; empty for the model of this name.
            file, config: As `Loader.find`.
            timeout_s: How long to wait for another load of the same name to end.
        Raises:
            ResourceExhausted: There is no room for one more.
            DeadlineExceeded: Another load took too long.
            InvalidArgument, NotFound, FailedPrecondition: As `Loader.find` and `Loader.load`.
        """
        with self._alone(key, timeout_s):
            source = self._loader.find(reference or str(ModelName(key.project, key.model)), file, config)
            if not self._serves(key, source):
                self._replace(key, source)
            self._evicted.forget(key)

    def _load_again(self, key: Key, source: Source) -> None:
        with self._alone(key, None):
            # Else somebody has unloaded it for good, or loaded it from elsewhere, before its turn came.
            if self._evicted.knows(key, source):
                self._replace(key, source)
                self._evicted.forget(key)

    def _make_room(self, key: Key, source: Source) -> None:
        with self._changed:
            going = self._catalog.in_the_way(key, source, lambda model: model.engine.is_idle)
        for other in going:
            try:
                with self._alone(other, 0):
                    self._evict(other)
            except (DeadlineExceeded, NotFound):
                continue  # somebody loads or unloads it just now

    def _evict(self, key: Key) -> None:
        with self._changed:
            source = self._catalog.source(key)
        if source is None:
            return
        # Known before it goes: who asks in between is told to come again.
        self._evicted.add(key, source)
        self._remove(key)
        log.info("model_evicted", project=key.project, model=key.model)

    def _serves(self, key: Key, source: Source) -> bool:
        with self._changing_catalog():
            if self._catalog.source(key) != source:
                return False
            self._catalog.forget_failure(key)
            return True

    def _replace(self, key: Key, source: Source) -> None:
        if self._evicts:
            self._make_room(key, source)
        with self._changing_catalog():
            self._catalog.begin_load(key, source)
        try:
            model = self._loader.load(key, source, MembersOf(self, key))
        except HeadraceError as error:
            self._fail(key, error.message)
            raise
        except BaseException:
            self._fail(key, "internal error; see the server's log")
            raise
        with self._changing_catalog():
            before = self._catalog.finish_load(key, model, model.held_bytes)
        if before is not None:
            self._drain(before)

    def _fail(self, key: Key, reason: str) -> None:
        with self._changing_catalog():
            self._catalog.fail_load(key, reason)
        log.warning("model_load_failed", project=key.project, model=key.model, reason=reason)

    def unload(self, key: Key, timeout_s: float | None) -> None:
        """Take no more requests for a model, wait for the ones it has, and forget it.

        Raises:
            NotFound: There is none of this name.
            DeadlineExceeded: A load of it took too long.
        """
        with self._alone(key, timeout_s):
            if not self._evicted.forget(key):
                self._remove(key)

    def _remove(self, key: Key) -> None:
        with self._changing_catalog():
            model = self._catalog.begin_unload(key)
        if model is not None:
            self._drain(model)
        with self._changing_catalog():
            self._catalog.finish_unload(key)

    def _drain(self, model: Model) -> None:
        # Closed only now: the catalog names another model already, or none, so a request that comes too late asks there.
        model.engine.close()
        if not model.engine.drain(self._drain_s):
            log.warning("drain_abandoned", model=model.key.model, version=str(model.source.version))
        self._metrics.forget(model.key, model.source.number, model.engine.statistics)
        model.runner.close()
        give_back_memory()
        log.info(
            "model_dropped",
            project=model.key.project,
            model=model.key.model,
            version=str(model.source.version),
        )

    @contextmanager
    def _changing_catalog(self) -> Iterator[None]:
        with self._changed:
            yield
            for listener in self._listeners:
                listener()

    @contextmanager
    def _alone(self, key: Key, timeout_s: float | None) -> Iterator[None]:
        """Keep other loads and unloads of this name out."""
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._changing, timeout_s):
                raise DeadlineExceeded(
                    f"model {key.model!r} is still being loaded or unloaded; try again later"
                )
            self._changing.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._changing.discard(key)
                self._changed.notify_all()
