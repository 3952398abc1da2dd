"""Static graphs → one MLIR module that IREE compiles, with the weights as named parameters.

IREE's own command for this reads the weights to write an archive of its own. Here nothing is read: an
initializer with external data becomes the parameter `model::NAME`, which the runtime finds by that name in
the canonical `weights.safetensors`. Both graphs become functions of one module and share the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.errors import BuildError, ToolchainMissingError

SCOPE = "model"
"""Scope of the parameters."""
MODULE = "decoder"
"""Name of the module."""
Untyped = Any
"""A class or value of IREE's bindings, whose types follow no stubs."""


def import_graphs(models: Mapping[str, Untyped]) -> str:
    """The text of a module with one function for each ONNX model, by name.

    Raises:
        BuildError: IREE's importer does not take a graph.
        ToolchainMissingError: IREE's compiler is not installed.
    """
    try:
        import onnx
        from iree.compiler import ir
        from iree.compiler.extras import onnx_importer
    except ImportError as error:
        raise ToolchainMissingError(
            f"IREE's importer cannot be loaded: {error}", hint="install `rung[iree]`"
        ) from error
    importer = _importer()
    operation: Untyped = None
    shared: dict[str, Untyped] = {}
    for name, model in models.items():
        try:
            info = onnx_importer.ModelInfo(onnx.shape_inference.infer_shapes(model, data_prop=True))
            if operation is None:
                operation = info.create_module(context=ir.Context()).operation
                operation.attributes["sym_name"] = ir.StringAttr.get(MODULE, operation.context)
            importer.start(info.main_graph, operation, shared).import_all()
        except Exception as error:  # the importer raises classes of its own and of the bindings
            raise BuildError(
                f"IREE's importer refuses the graph `{name}`: {error}", hint="see the log of this stage"
            ) from error
    operation.verify()
    return str(operation.get_asm(assume_verified=True))


def _importer() -> Untyped:
    """IREE's importer of graphs, changed to share parameters and to tell them by where their data is."""
    import onnx
    from iree.compiler.extras import onnx_importer
    from iree.compiler.tools.import_onnx import importer_externalization_overrides as stock

    class Importer(stock.IREENodeImporter):  # type: ignore[misc]  # a class without types
        shared: dict[str, Untyped]

        @classmethod
        def start(cls, graph: Untyped, module: Untyped, shared: dict[str, Untyped]) -> Untyped:
            choices = stock.ParamData(
                param_bit_threshold=None, num_elements_threshold=0, params_scope=SCOPE, data_dir="",
                param_path="", input_index_threshold=None,
            )  # fmt: skip
            made = stock.IREENodeImporter.define_function(graph, module, choices)
            made.__class__ = cls  # `define_function` names its own class
            made.shared = shared
            return made

        def create_tensor_global(self, tensor: Untyped) -> Untyped:
            if tensor.name not in self.shared:
                self.shared[tensor.name] = super().create_tensor_global(tensor)
            return self.shared[tensor.name]

        def import_initializer(self, initializer: Untyped, extern_name: str | None = None) -> Untyped:
            if initializer.data_location == onnx.TensorProto.EXTERNAL:
                return super().import_initializer(initializer, extern_name)
            # Shapes and the like must be constants, whatever their size.
            value = onnx_importer.NodeImporter.import_initializer(self, initializer)
            self._nv_map[extern_name or initializer.name] = value
            return value

    return Importer
