#include "reference_forward.h"

#include <algorithm>
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
    const std::vector<double> frequencies = RopeFrequencies(config_);
    const size_t half = frequencies.size();
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t head = 0; head < x[t].size(); head += 2 * half) {
        for (size_t i = 0; i < half; ++i) {
          const double angle = t * frequencies[i];
          double& a = x[t][head + i];
          double& b = x[t][head + half + i];
          const double first = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a * std::sin(angle);
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
    Rows q = f.Linear(normed, layer + "self_attn.q_proj");
    Rows k = f.Linear(normed, layer + "self_attn.k_proj");
    f.Rotate(q);
    f.Rotate(k);
    const Rows v = f.Linear(normed, layer + "self_attn.v_proj");
    AddTo(x, f.Linear(f.Attention(q, k, v, /*causal=*/true), layer + "self_attn.o_proj"));
    const Rows mlp_in = f.RmsNorm(x, layer + "post_attention_layernorm.weight");
    Rows gate = f.Linear(mlp_in, layer + "mlp.gate_proj");
    const Rows up = f.Linear(mlp_in, layer + "mlp.up_proj");
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
