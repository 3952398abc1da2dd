"""Checkpoint → the ONNX interchange graph: one form for prefill and decode, for every toolchain.

The graph depends on the architecture alone. It is emitted from the checkpoint's configuration, with weights
as external data in `weights.safetensors` under the names of the state dict, so its bytes do not change with
the weights' values. Its references (offset, length) are those of the fp32 weights file; a toolchain that
lowers another layout goes by the names. ONNX opset 23, standard domain only:

Inputs
    input_ids        int64   [batch, seq]
    position_ids     int64   [batch, seq]
    key_positions    int64   [batch, total]   total = past + seq; a padded key has position 2**40
    logit_index      int64   [wanted]         which of the batch·seq flattened positions get logits
    past.{i}.key     float32 [batch, kv_heads, past, head_size]   past may be 0
    past.{i}.value   float32 [batch, kv_heads, past, head_size]
Outputs
    logits           float32 [wanted, vocab]
    present.{i}.key, present.{i}.value   float32 [batch, kv_heads, past + seq, head_size]

Operators: Gather, Reshape, Shape, Concat, Unsqueeze, Cast, Cos, Sin, RMSNormalization, Gemm (transB = 1,
weights [out, in] as in the checkpoint, bias as its C), RotaryEmbedding (not interleaved, cos and sin
[batch, seq, head_size / 2] computed in the graph from `rope.inv_freq` and, for YaRN, `rope.scale`), Attention
(grouped queries, past inside, additive float mask), LessOrEqual, Greater, And, Sub, Where, Sigmoid, Mul, Add.
Between the attention blocks activations are flat: [batch · seq, hidden]. Rows are picked by `logit_gather`
before `final_norm`, so only wanted positions pay for the output matrix.

Node names are stable, and a node's first output has the node's name (but `lm_head` makes `logits`):
`layers.{i}.input_norm`, `layers.{i}.q_proj`, `…k_proj`, `…v_proj`, `…q_norm`, `…k_norm`, `…q_rope`,
`…k_rope`, `…attention`, `…o_proj`, `…attention_residual`, `…post_norm`, `…gate_proj`, `…up_proj`,
`…activation`, `…down_proj`, `…mlp_residual`; `embed_tokens`, `logit_gather`, `final_norm`, `lm_head`. Masks
are the tensors `mask` and, for layers with a sliding window of W keys, `mask.window.W`.

Tied embeddings: `lm_head` multiplies by `model.embed_tokens.weight`. Whether a variant has codes of one
matrix for both or of two is in the names of its weights file: see `registry/variant.py`.
"""
