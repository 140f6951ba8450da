#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/cpu/arrays.h"
#include "kernels/cpu/pack.h"

namespace quantd::cpu {
namespace {

// A run of panels whose rows follow each other in the output.
struct Section {
  const PackedMatrix* matrix = nullptr;
  int64_t first_panel = 0;
  int64_t panels = 0;
  int64_t first_row = 0;  // of the stacked matrix
  int64_t rows = 0;
  size_t format = 0;  // index into the prepared activations
};

struct Plan {
  std::vector<ActivationFormat> formats;
  std::vector<Section> sections;
  std::vector<Section> partners;  // up sections beside gate sections, or empty
  int64_t panels = 0;
};

Plan MakePlan(const CpuWeight& weight, int64_t first_row, const KernelTable& kernels) {
  Plan plan;
  int64_t row = first_row;
  for (const PackedMatrix& part : weight.parts()) {
    const ActivationFormat format = FormatFor(part, kernels);
    const auto found = std::find(plan.formats.begin(), plan.formats.end(), format);
    const size_t index = static_cast<size_t>(found - plan.formats.begin());
    if (found == plan.formats.end()) plan.formats.push_back(format);
    plan.sections.push_back({&part, 0, part.panels, row, part.rows, index});
    row += part.rows;
    plan.panels += part.panels;
  }
  return plan;
}

// Pairs gate panels with up panels; false when they do not lie alike.
bool PairSections(Plan& plan) {
  std::vector<Section>& s = plan.sections;
  if (s.size() == 1 && s[0].rows % (2 * kPanelRows) == 0) {
    Section up = s[0];
    s[0].rows = up.rows /= 2;
    s[0].panels = up.panels /= 2;
    up.first_panel = up.panels;
    up.first_row = up.rows;
    plan.partners = {up};
  } else if (s.size() == 2 && s[0].rows == s[1].rows) {
    plan.partners = {s[1]};
    s.pop_back();
  } else {
    return false;
  }
  plan.panels = s[0].panels;
  return true;
}

bool FitSteps(const LinearArgs& a, int64_t stack) {
  const InputSteps& s = a.steps;
  const auto fits = [](const DeviceArray* array, int64_t cols) {
    return array == nullptr || (array->rows() >= 1 && array->cols() == cols);
  };
  const bool rotates = s.hadamard_size <= 1 || ((s.hadamard_size & (s.hadamard_size - 1)) == 0 &&
                                                a.weight->cols() % s.hadamard_size == 0);
  const bool orders = s.order == nullptr || s.order->cols() == a.weight->cols();
  return rotates && orders && fits(s.multiplier, a.weight->cols()) && fits(s.int8_divisor, stack);
}

absl::Status CheckShapes(const LinearArgs& a) {
  if (a.weight == nullptr || a.x == nullptr || a.y == nullptr) {
    return absl::InvalidArgumentError("linear: weight, x and y are required");
  }
  const int64_t half = a.activation == Activation::kSiluMul ? 2 : 1;
  const int64_t stack = a.stack_rows > 0 ? a.stack_rows : a.weight->rows();
  const int64_t width = stack / half;
  const bool inside = a.first_row >= 0 && a.first_row + a.weight->rows() <= stack &&
                      (a.stack_rows == 0 || half == 1);
  const auto fits = [&](const DeviceArray* array, int64_t rows, int64_t cols) {
    return array == nullptr || (array->rows() >= rows && array->cols() == cols);
  };
  if (a.tokens >= 0 && inside && a.weight->rows() % half == 0 &&
      fits(a.x, a.tokens, a.weight->cols()) && fits(a.y, a.tokens, width) &&
      fits(a.residual, a.tokens, width) && fits(a.bias, 1, stack) && FitSteps(a, stack) &&
      fits(a.norm.weight, 1, a.weight->cols()) && fits(a.norm.bias, 1, a.weight->cols())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("linear: a weight of [", a.weight->rows(), ", ", a.weight->cols(), "] and ",
                   a.tokens, " tokens do not fit x [", a.x->rows(), ", ", a.x->cols(), "], y [",
                   a.y->rows(), ", ", a.y->cols(), "] or the shapes of bias, norm or residual"));
}

// What all threads of one call share.
struct Call {
  const KernelTable& kernels;
  const LinearArgs& args;
  const Plan& plan;
  bool stacked;  // kSiluMul is left to a second pass over `out`
  float* out;
  int64_t out_cols;
};

void RunKernel(const KernelTable& kernels, const Section& section, int64_t panel,
               const PreparedActivations& x, int64_t tile, float* out) {
  const PackedMatrix& m = *section.matrix;
  const std::byte* data = m.panel(section.first_panel + panel);
  if (m.element == Element::kU4 || m.element == Element::kU8) {
    IntTile t;
    t.element = m.element;
    t.zero_mode = m.zero_mode;
    t.half_scales = m.half_scales;
    t.block_cols = m.columns.block;
    t.groups = m.columns.groups;
    t.blocks_per_group = m.columns.padded / m.columns.block;
    t.layout = m.groups;
    t.panel = data;
    t.out = out;
    x.Point(tile, t);
    return kernels.int_tile(t);
  }
  FloatTile t;
  t.element = m.element;
  t.half_scales = m.half_scales;
  t.groups = m.columns.groups;
  t.group_cols = m.columns.padded;
  t.layout = m.groups;
  t.panel = data;
  t.table = m.table.data();
  t.out = out;
  x.Point(tile, t);
  kernels.float_tile(t);
}

// out[tokens][16] = out * multiplier + bias of the panel's rows; whole numbers are divided instead.
void ScaleAndBias(const Call& call, const Section& section, int64_t panel, const TokenTile& tile,
                  const PreparedActivations& x, float* out) {
  const float multiplier = section.matrix->multiplier;
  const int64_t row = section.first_row + panel * kPanelRows;
  const int64_t rows = std::min<int64_t>(kPanelRows, section.rows - panel * kPanelRows);
  float bias[kPanelRows] = {};
  if (call.args.bias != nullptr) std::copy_n(AsCpu(*call.args.bias).data() + row, rows, bias);
  if (call.args.steps.int8_divisor != nullptr) {
    const float* divisor = AsCpu(*call.args.steps.int8_divisor).data() + row;
    for (int t = 0; t < tile.count; ++t) {
      const float steps = x.divisor(tile.first + t);
      float* sums = out + t * kPanelRows;
      for (int r = 0; r < rows; ++r) sums[r] = sums[r] / (divisor[r] * steps) + bias[r];
    }
    return;
  }
  for (int t = 0; t < tile.count; ++t) {
    for (int r = 0; r < kPanelRows; ++r) {
      out[t * kPanelRows + r] = out[t * kPanelRows + r] * multiplier + bias[r];
    }
  }
}

void Finish(const Call& call, const Section& section, int64_t panel, const TokenTile& tile,
            const float* values) {
  const int64_t column = section.first_row + panel * kPanelRows;
  const int64_t count = std::min<int64_t>(kPanelRows, section.rows - panel * kPanelRows);
  for (int t = 0; t < tile.count; ++t) {
    const int64_t token = tile.first + t;
    float* to = call.out + token * call.out_cols + column;
    const float* from = values + t * kPanelRows;
    if (call.args.residual == nullptr || call.stacked) {
      std::copy_n(from, count, to);
      continue;
    }
    const float* residual = AsCpu(*call.args.residual).row(token) + column;
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] + residual[i];
  }
}

void RunPanel(const Call& call, size_t index, int64_t panel,
              std::span<const PreparedActivations> prepared) {
  alignas(64) float values[kMaxTileTokens * kPanelRows];
  alignas(64) float up[kMaxTileTokens * kPanelRows];
  const Section& section = call.plan.sections[index];
  const PreparedActivations& x = prepared[section.format];
  for (int64_t i = 0; i < x.tiles(); ++i) {
    const TokenTile tile = x.tile(i);
    RunKernel(call.kernels, section, panel, x, i, values);
    ScaleAndBias(call, section, panel, tile, x, values);
    if (!call.plan.partners.empty()) {
      const Section& partner = call.plan.partners[index];
      RunKernel(call.kernels, partner, panel, prepared[partner.format], i, up);
      ScaleAndBias(call, partner, panel, tile, prepared[partner.format], up);
      call.kernels.silu_mul(values, up, tile.count * kPanelRows);
    } else if (!call.stacked) {
      call.kernels.activate(call.args.activation, values, tile.count * kPanelRows);
    }
    Finish(call, section, panel, tile, values);
  }
}

// Whole 127ths of the row's largest magnitude, counted or (`keep_values`) as they are. Returns how
// many there are in 1. `to` may be `from`.
float RoundToInt8(const float* from, int64_t cols, bool keep_values, float* to) {
  constexpr float kShift = 0x1.8p23f;  // adding it drops the fraction, half to even
  float largest = 1e-5f;
  for (int64_t c = 0; c < cols; ++c) largest = std::max(largest, std::fabs(from[c]));
  const float steps = 127.0f / largest;
  for (int64_t c = 0; c < cols; ++c) {
    const float step = (from[c] * steps + kShift) - kShift;
    to[c] = std::clamp(step, -128.0f, 127.0f) / (keep_values ? steps : 1.0f);
  }
  return steps;
}

// Floats that PrepareRow needs to work in: an order cannot be followed in place.
int64_t PreparedFloats(const LinearArgs& args) {
  return args.weight->cols() * (args.steps.order != nullptr ? 2 : 1);
}

// The inputs of one token in `row` after norm and steps, in `row` or `scratch` [PreparedFloats];
// and what the sums are to be divided by.
const float* PrepareRow(const KernelTable& kernels, const LinearArgs& args, const float* row,
                        float* scratch, float* divisor) {
  const int64_t cols = args.weight->cols();
  const RowNorm norm = PlainNorm(args.norm);
  const InputSteps& steps = args.steps;
  if (norm.kind != Norm::Kind::kNone) {
    kernels.normalize(row, cols, norm, scratch);
    row = scratch;
  }
  if (steps.multiplier != nullptr) {
    const float* multiplier = AsCpu(*steps.multiplier).data();
    for (int64_t c = 0; c < cols; ++c) scratch[c] = row[c] * multiplier[c];
    row = scratch;
  }
  if (steps.hadamard_size > 1) {
    if (row != scratch) std::copy_n(row, cols, scratch);
    kernels.rotate(scratch, cols, steps.hadamard_size);
    row = scratch;
  }
  if (steps.order != nullptr) {
    const int32_t* order = AsCpu(*steps.order).data();
    float* ordered = scratch + cols;
    for (int64_t c = 0; c < cols; ++c) ordered[c] = row[order[c]];
    row = ordered;
  }
  if (steps.int8_tokens) {
    *divisor = RoundToInt8(row, cols, steps.int8_divisor == nullptr, scratch);
    row = scratch;
  }
  return row;
}

// The thread's share of the panels, one run: memory streams at full speed only from few long runs.
void RunPanels(const Call& call, int thread, int threads,
               std::span<const PreparedActivations> prepared) {
  int64_t panel = call.plan.panels * thread / threads;
  const int64_t end = call.plan.panels * (thread + 1) / threads;
  int64_t section_begin = 0;
  for (size_t s = 0; s < call.plan.sections.size() && panel < end; ++s) {
    const int64_t section_end = section_begin + call.plan.sections[s].panels;
    for (; panel < std::min(end, section_end); ++panel) {
      RunPanel(call, s, panel - section_begin, prepared);
    }
    section_begin = section_end;
  }
}

void PrepareTokens(const KernelTable& kernels, const LinearArgs& args, int64_t first, int64_t end,
                   std::span<PreparedActivations> prepared, std::vector<float>& scratch) {
  const int64_t own = PreparedFloats(args);
  size_t floats = static_cast<size_t>(own);
  for (const PreparedActivations& p : prepared) {
    floats = std::max<size_t>(
        floats, static_cast<size_t>(own + PreparedActivations::ScratchFloats(p.format().columns)));
  }
  if (scratch.size() < floats) scratch.resize(floats);
  for (int64_t token = first; token < end; ++token) {
    float divisor = 1;
    const float* row =
        PrepareRow(kernels, args, AsCpu(*args.x).row(token), scratch.data(), &divisor);
    for (PreparedActivations& p : prepared) {
      p.Store(kernels, token, row, scratch.data() + own);
      p.SetDivisor(token, divisor);
    }
  }
}

// The second pass of a stacked kSiluMul, on tokens [first, end).
void CombineStacked(const Call& call, int64_t first, int64_t end) {
  CpuArray& y = AsCpu(*call.args.y);
  const int64_t width = y.cols();
  for (int64_t token = first; token < end; ++token) {
    float* gate = call.out + token * call.out_cols;
    call.kernels.silu_mul(gate, gate + width, width);
    float* to = y.row(token);
    const float* residual =
        call.args.residual == nullptr ? nullptr : AsCpu(*call.args.residual).row(token);
    for (int64_t i = 0; i < width; ++i) to[i] = gate[i] + (residual == nullptr ? 0 : residual[i]);
  }
}

}  // namespace

RowNorm PlainNorm(const Norm& norm) {
  return {.kind = norm.kind,
          .weight = norm.weight == nullptr ? nullptr : AsCpu(*norm.weight).data(),
          .bias = norm.bias == nullptr ? nullptr : AsCpu(*norm.bias).data(),
          .epsilon = norm.epsilon};
}

absl::Status LinearRunner::Run(const LinearArgs& args) {
  RETURN_IF_ERROR(CheckShapes(args));
  if (args.tokens == 0) return absl::OkStatus();
  const CpuWeight& weight = AsCpu(*args.weight);
  Plan plan = MakePlan(weight, args.first_row, kernels_);
  const bool stacked = args.activation == Activation::kSiluMul && !PairSections(plan);
  if (stacked) stacked_.resize(static_cast<size_t>(args.tokens * weight.rows()));

  const int team = ComputeThreads();
  // A thread must not overwrite x while another still reads it.
  const bool alone = args.tokens == 1 && args.x != args.y;
  prepared_.resize(static_cast<size_t>(team));
  for (std::vector<PreparedActivations>& copy :
       std::span(prepared_.data(), static_cast<size_t>(alone ? team : 1))) {
    // Formats beyond this call's keep their buffers for the next one.
    if (copy.size() < plan.formats.size()) copy.resize(plan.formats.size());
    for (size_t i = 0; i < plan.formats.size(); ++i) copy[i].Reset(plan.formats[i], args.tokens);
  }
  scratch_.resize(static_cast<size_t>(team));

  const Call call{kernels_,
                  args,
                  plan,
                  stacked,
                  stacked ? stacked_.data() : AsCpu(*args.y).data(),
                  stacked ? weight.rows() : args.y->cols()};
  ParallelTeam([&](int thread, int threads) {
    const std::span<PreparedActivations> mine(
        prepared_[alone ? static_cast<size_t>(thread) : 0].data(), plan.formats.size());
    const int64_t first = alone ? 0 : args.tokens * thread / threads;
    const int64_t end = alone ? 1 : args.tokens * (thread + 1) / threads;
    PrepareTokens(kernels_, args, first, end, mine, scratch_[static_cast<size_t>(thread)]);
    if (!alone && threads > 1) TeamBarrier();
    RunPanels(call, thread, threads, mine);
    if (!stacked) return;
    if (threads > 1) TeamBarrier();
    CombineStacked(call, args.tokens * thread / threads, args.tokens * (thread + 1) / threads);
  });
  return absl::OkStatus();
}

}  // namespace quantd::cpu
