#include "reference_forward.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "models/architectures/rope.h"

namespace quantd {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Forward {
 public:
  explicit Forward(const MemorySource& source) : source_(source), config_(source.config()) {}

  Rows Lookup(const std::string& table, const std::vector<int32_t>& ids) const {
    const std::vector<float> values = source_.Floats(table);
    Rows rows;
    for (const int32_t id : ids) {
      const auto begin = values.begin() + id * config_.hidden_size;
      rows.emplace_back(begin, begin + config_.hidden_size);
    }
    return rows;
  }

  Rows Linear(const Rows& x, const std::string& module) const {
    const std::vector<float> w = source_.Floats(module + ".weight");
    const size_t cols = x[0].size(), outs = w.size() / cols;
    std::vector<float> bias(outs, 0.0f);
    if (source_.Has(module + ".bias")) bias = source_.Floats(module + ".bias");
    Rows y;
    for (const Row& row : x) {
      Row& out = y.emplace_back(outs);
      for (size_t r = 0; r < outs; ++r) {
        double sum = bias[r];
        for (size_t c = 0; c < cols; ++c) sum += static_cast<double>(w[r * cols + c]) * row[c];
        out[r] = sum;
      }
    }
    return y;
  }

  // The outputs of rows [first, first + count) of a module.
  Rows LinearRows(const Rows& x, const std::string& module, int64_t first, int64_t count) const {
    Rows y = Linear(x, module);
    for (Row& row : y) row = Row(row.begin() + first, row.begin() + first + count);
    return y;
  }

  // q, k and v, whether they are one matrix or three.
  std::array<Rows, 3> Qkv(const Rows& x, const std::string& attention) const {
    const int64_t q = config_.num_attention_heads * config_.head_dim;
    const int64_t kv = config_.num_key_value_heads * config_.head_dim;
    if (!config_.fused_projections) {
      return {Linear(x, attention + "q_proj"), Linear(x, attention + "k_proj"),
              Linear(x, attention + "v_proj")};
    }
    const std::string fused = attention + "qkv_proj";
    return {LinearRows(x, fused, 0, q), LinearRows(x, fused, q, kv),
            LinearRows(x, fused, q + kv, kv)};
  }

  std::array<Rows, 2> GateUp(const Rows& x, const std::string& mlp) const {
    if (!config_.fused_projections) {
      return {Linear(x, mlp + "gate_proj"), Linear(x, mlp + "up_proj")};
    }
    const int64_t width = config_.intermediate_size;
    return {LinearRows(x, mlp + "gate_up_proj", 0, width),
            LinearRows(x, mlp + "gate_up_proj", width, width)};
  }

  // Every head by itself.
  Rows HeadNorm(const Rows& x, const std::string& name) const {
    Rows heads;
    for (const Row& row : x) {
      for (auto head = row.begin(); head != row.end(); head += config_.head_dim) {
        heads.emplace_back(head, head + config_.head_dim);
      }
    }
    heads = RmsNorm(std::move(heads), name);
    Rows y(x.size());
    const size_t per_row = heads.size() / x.size();
    for (size_t i = 0; i < heads.size(); ++i) {
      y[i / per_row].insert(y[i / per_row].end(), heads[i].begin(), heads[i].end());
    }
    return y;
  }

  Rows RmsNorm(Rows x, const std::string& name) const {
    const std::vector<float> weight = source_.Floats(name);
    for (Row& row : x) {
      double squares = 0;
      for (const double v : row) squares += v * v;
      const double scale = 1 / std::sqrt(squares / row.size() + config_.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * weight[i];
    }
    return x;
  }

  Rows LayerNorm(Rows x, const std::string& module) const {
    const std::vector<float> weight = source_.Floats(module + ".weight");
    const std::vector<float> bias = source_.Floats(module + ".bias");
    for (Row& row : x) {
      double mean = 0, squares = 0;
      for (const double v : row) mean += v / row.size();
      for (const double v : row) squares += (v - mean) * (v - mean) / row.size();
      const double scale = 1 / std::sqrt(squares + config_.norm_eps);
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) * scale * weight[i] + bias[i];
      }
    }
    return x;
  }

  void Rotate(Rows& x) const {
    const std::vector<double> frequencies =
        RopeFrequencies(config_, config_.max_position_embeddings);
    const double factor = config_.rope_scaling.attention_factor;
    const size_t half = frequencies.size();
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t head = 0; head < x[t].size(); head += config_.head_dim) {
        for (size_t i = 0; i < half; ++i) {
          const double cosine = std::cos(t * frequencies[i]) * factor;
          const double sine = std::sin(t * frequencies[i]) * factor;
          double& a = x[t][head + i];
          double& b = x[t][head + half + i];
          const double first = a * cosine - b * sine;
          b = b * cosine + a * sine;
          a = first;
        }
      }
    }
  }

  Rows Attention(const Rows& q, const Rows& k, const Rows& v, bool causal) const {
    const size_t dim = config_.head_dim;
    const size_t group = config_.num_attention_heads / config_.num_key_value_heads;
    Rows out(q.size(), Row(q[0].size(), 0.0));
    for (size_t t = 0; t < q.size(); ++t) {
      const size_t keys = causal ? t + 1 : q.size();
      for (size_t head = 0; head < q[0].size() / dim; ++head) {
        const size_t at = head * dim, kv = head / group * dim;
        Row weights(keys);
        double sum = 0;
        for (size_t s = 0; s < keys; ++s) {
          double dot = 0;
          for (size_t i = 0; i < dim; ++i) dot += q[t][at + i] * k[s][kv + i];
          sum += weights[s] = std::exp(dot / std::sqrt(static_cast<double>(dim)));
        }
        for (size_t s = 0; s < keys; ++s) {
          for (size_t i = 0; i < dim; ++i) out[t][at + i] += weights[s] / sum * v[s][kv + i];
        }
      }
    }
    return out;
  }

 private:
  const MemorySource& source_;
  const ModelConfig& config_;
};

void AddTo(Rows& x, const Rows& y) {
  for (size_t t = 0; t < x.size(); ++t) {
    for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
  }
}

std::vector<double> Flatten(const Rows& rows) {
  std::vector<double> flat;
  for (const Row& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return flat;
}

}  // namespace

std::vector<double> ReferenceLogits(const MemorySource& source, const std::vector<int32_t>& ids) {
  const Forward f(source);
  Rows x = f.Lookup("model.embed_tokens.weight", ids);
  for (int64_t i = 0; i < source.config().num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    const Rows normed = f.RmsNorm(x, layer + "input_layernorm.weight");
    auto [q, k, v] = f.Qkv(normed, layer + "self_attn.");
    if (source.config().qk_norm) {
      q = f.HeadNorm(q, layer + "self_attn.q_norm.weight");
      k = f.HeadNorm(k, layer + "self_attn.k_norm.weight");
    }
    f.Rotate(q);
    f.Rotate(k);
    AddTo(x, f.Linear(f.Attention(q, k, v, /*causal=*/true), layer + "self_attn.o_proj"));
    const Rows mlp_in = f.RmsNorm(x, layer + "post_attention_layernorm.weight");
    auto [gate, up] = f.GateUp(mlp_in, layer + "mlp.");
    for (size_t t = 0; t < gate.size(); ++t) {
      for (size_t j = 0; j < gate[t].size(); ++j) {
        gate[t][j] = gate[t][j] / (1 + std::exp(-gate[t][j])) * up[t][j];
      }
    }
    AddTo(x, f.Linear(gate, layer + "mlp.down_proj"));
  }
  x = f.RmsNorm(x, "model.norm.weight");
  const bool tied = source.config().tie_word_embeddings;
  return Flatten(f.Linear(x, tied ? "model.embed_tokens" : "lm_head"));
}

std::vector<double> ReferenceHiddenStates(const MemorySource& source,
                                          const std::vector<int32_t>& ids) {
  const Forward f(source);
  std::vector<int32_t> positions(ids.size()), types(ids.size(), 0);
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int32_t>(i);
  Rows x = f.Lookup("embeddings.word_embeddings.weight", ids);
  AddTo(x, f.Lookup("embeddings.position_embeddings.weight", positions));
  AddTo(x, f.Lookup("embeddings.token_type_embeddings.weight", types));
  x = f.LayerNorm(x, "embeddings.LayerNorm");
  for (int64_t i = 0; i < source.config().num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("encoder.layer.", i, ".");
    const Rows attention = f.Attention(f.Linear(x, layer + "attention.self.query"),
                                       f.Linear(x, layer + "attention.self.key"),
                                       f.Linear(x, layer + "attention.self.value"), false);
    AddTo(x, f.Linear(attention, layer + "attention.output.dense"));
    x = f.LayerNorm(x, layer + "attention.output.LayerNorm");
    Rows mlp = f.Linear(x, layer + "intermediate.dense");
    for (Row& row : mlp) {
      for (double& v : row) v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    }
    AddTo(x, f.Linear(mlp, layer + "output.dense"));
    x = f.LayerNorm(x, layer + "output.LayerNorm");
  }
  return Flatten(x);
}

double RelativeError(std::span<const float> found, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace quantd
