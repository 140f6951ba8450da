#include "quantizers/block_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/product_device.h"
#include "quantizers/output_error.h"
#include "quantizers/parameter_names.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

constexpr char kTokensFile[] = "tokens";

std::string InputsName(int64_t block, bool original) {
  return absl::StrCat("inputs-", block, original ? "-original" : "");
}

std::string TargetsName(int64_t block) { return absl::StrCat("targets-", block); }

CalibrationSpec SpecOf(const Recipe& recipe) {
  CalibrationSpec spec = *recipe.calibration();
  // The inputs are the original's then.
  spec.both_inputs = spec.both_inputs && spec.quantized_inputs;
  return spec;
}

}  // namespace

BlockJob::BlockJob(Job& job, const JobPlan& plan, const Recipe& recipe, CheckpointSink& sink,
                   const CalibrationData& data)
    : job_(job),
      spec_(SpecOf(recipe)),
      solver_(recipe.block_solver()),
      tuner_(recipe.block_tuner()),
      sink_(sink),
      data_(data),
      model_(*data.model) {
  for (const PlannedParameter& parameter : plan.parameters) {
    planned_[parameter.source.name] = &parameter;
    if (parameter.layer < 0) continue;
    const auto layer = static_cast<size_t>(parameter.layer);
    if (blocks_.size() <= layer) blocks_.resize(layer + 1);
    blocks_[layer].push_back(&parameter);
  }
}

const PlannedParameter* BlockJob::Find(const std::string& module) const {
  const auto it = planned_.find(absl::StrCat(module, ".weight"));
  return it == planned_.end() || it->second->scheme == nullptr ? nullptr : it->second;
}

absl::Status BlockJob::Named(const BlockLinear& linear, const absl::Status& status) const {
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::Status(status.code(), absl::StrCat(linear.module, ": ", status.message()));
}

void BlockJob::WritePlainRows(const QuantizedTensor& tensor, std::span<float> to) {
  ParallelFor(tensor.rows,
              [&](int64_t row) { PlainRows(tensor, row, 1, to.data() + row * tensor.cols); });
}

absl::Status BlockJob::Run() {
  for (const std::string& warning : data_.warnings) job_.Warn(warning);
  started_ = Clock::now();
  RETURN_IF_ERROR(LoadSequences());
  ASSIGN_OR_RETURN(const int64_t first, FindStart());
  started_ = Clock::now();
  for (int64_t block = 0; block < model_.blocks(); ++block) {
    if (block >= first) {
      RETURN_IF_ERROR(DoBlock(block));
      continue;
    }
    for (const PlannedParameter* parameter : blocks_[static_cast<size_t>(block)]) {
      RETURN_IF_ERROR(job_.Done(*parameter));
    }
  }
  inputs_.reset();
  for (const std::string& name : sink_.ScratchFiles()) RETURN_IF_ERROR(sink_.RemoveScratch(name));
  return absl::OkStatus();
}

absl::Status BlockJob::LoadSequences() {
  absl::StatusOr<TokenSequences> kept = ReadTokens(sink_, kTokensFile);
  if (absl::IsNotFound(kept.status())) {
    Tell(0, "calibration text");
    kept = data_.sequences();
    if (absl::IsCancelled(kept.status()) && job_.stopping()) return job_.Stopped();
    RETURN_IF_ERROR(kept.status());
    RETURN_IF_ERROR(WriteTokens(sink_, kTokensFile, *kept));
  }
  RETURN_IF_ERROR(kept.status());
  sequences_ = *std::move(kept);
  for (const auto& sequence : sequences_) {
    tokens_.push_back(static_cast<int64_t>(sequence.size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> BlockJob::FindStart() {
  const auto complete = [this](int64_t block) {
    const auto& parameters = blocks_[static_cast<size_t>(block)];
    return std::all_of(parameters.begin(), parameters.end(),
                       [this](const PlannedParameter* p) { return sink_.IsComplete(*p); });
  };
  int64_t done = 0;
  while (done < model_.blocks() && complete(done)) ++done;
  if (done == model_.blocks()) return done;
  for (int64_t block = done; block > 0; --block) {
    if (OpenNext(block, &ActivationFile::Open).ok()) return block;
  }
  RETURN_IF_ERROR(EmbedAll());
  return 0;
}

absl::Status BlockJob::OpenNext(int64_t next, decltype(&ActivationFile::Open) open) {
  const int64_t width = model_.hidden_size();
  ASSIGN_OR_RETURN(auto inputs, open(sink_, InputsName(next, false), tokens_, width));
  std::unique_ptr<ActivationFile> original;
  if (spec_.both_inputs) {
    ASSIGN_OR_RETURN(original, open(sink_, InputsName(next, true), tokens_, width));
  }
  inputs_ = std::make_unique<BlockActivations>(sink_, std::move(inputs), std::move(original));
  for (const bool which : {false, true}) {
    const std::string name = InputsName(next - 1, which);
    const std::vector<std::string> files = sink_.ScratchFiles();
    if (std::find(files.begin(), files.end(), name) != files.end()) {
      RETURN_IF_ERROR(sink_.RemoveScratch(name));
    }
  }
  return absl::OkStatus();
}

absl::Status BlockJob::EmbedAll() {
  for (const bool original : {false, true}) {
    if (original && !spec_.both_inputs) break;
    ASSIGN_OR_RETURN(ActivationWriter file,
                     ActivationWriter::Create(sink_, InputsName(0, original)));
    for (const std::vector<int32_t>& sequence : sequences_) {
      if (job_.stopping()) return job_.Stopped();
      ASSIGN_OR_RETURN(const std::vector<float> hidden, model_.Embed(sequence));
      RETURN_IF_ERROR(file.Append(hidden));
    }
    RETURN_IF_ERROR(file.Seal());
  }
  return OpenNext(0, &ActivationFile::OpenOwn);
}

void BlockJob::Tell(int64_t index, const std::string& what) {
  job_.Tell([&](QuantizeProgress& progress) {
    progress.block = index + 1;
    progress.blocks = model_.blocks();
    progress.tensor = what;
    progress.output_error = progress.rounding_error = progress.relative_error = -1;
    if (done_ == 0) return;
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    const double each = seconds(block_started_ - started_) / static_cast<double>(done_);
    const double left = each * static_cast<double>(model_.blocks() - index) -
                        std::min(each, seconds(Clock::now() - block_started_));
    progress.eta_seconds = left;
  });
}

absl::Status BlockJob::DoBlock(int64_t index) {
  block_started_ = Clock::now();
  if (job_.stopping()) return job_.Stopped();
  Tell(index, absl::StrCat("block ", index + 1, ": loading"));
  absl::StatusOr<std::unique_ptr<CalibratedBlock>> loaded = model_.LoadBlock(index);
  if (absl::IsCancelled(loaded.status()) && job_.stopping()) return job_.Stopped();
  RETURN_IF_ERROR(loaded.status());
  const std::unique_ptr<CalibratedBlock> block = *std::move(loaded);
  const bool last = index + 1 == model_.blocks();
  if (!last && (spec_.both_inputs || !spec_.quantized_inputs)) {
    const std::string name = InputsName(index + 1, spec_.both_inputs);
    RETURN_IF_ERROR(RunThrough(*block, name, spec_.both_inputs));
    RETURN_IF_ERROR(OpenTargets(name));
  }
  if (tuner_ != nullptr) RETURN_IF_ERROR(WriteTargets(*block, index));
  Results results;
  StageValues values(sink_, *inputs_, tokens_);
  if (solver_ != nullptr) {
    Tell(index, absl::StrCat("block ", index + 1));
    RETURN_IF_ERROR(SolveTogether(*block, results));
  } else {
    RETURN_IF_ERROR(SolveStages(*block, index, values, results));
  }
  if (tuner_ != nullptr) {
    values.Clear();
    RETURN_IF_ERROR(TuneBlock(*block, index, results));
  }
  RETURN_IF_ERROR(WriteBlock(*block, index, results));
  if (!last && spec_.quantized_inputs) {
    RETURN_IF_ERROR(RunOn(*block, InputsName(index + 1, false), values));
  }
  values.Clear();
  if (data_.device != nullptr && !data_.device->failure().ok()) {
    job_.Warn(absl::StrCat("calibrated on the CPU in part: ", data_.device->failure().message()));
  }
  if (!last) RETURN_IF_ERROR(OpenNext(index + 1, &ActivationFile::OpenOwn));
  ++done_;
  return absl::OkStatus();
}

absl::Status BlockJob::SolveTogether(CalibratedBlock& block, Results& results) {
  std::map<std::string, const Scheme*> schemes;
  for (const BlockLinear& linear : block.linears()) {
    const PlannedParameter* parameter = Find(linear.module);
    if (parameter != nullptr) schemes[linear.module] = parameter->scheme;
  }
  if (schemes.empty()) return absl::OkStatus();
  SolverControl control{.stopped = [this] { return job_.stopping(); }, .warnings = {}};
  auto solved = solver_->Solve(block, *inputs_, schemes, control);
  if (absl::IsCancelled(solved.status())) return job_.Stopped();
  RETURN_IF_ERROR(solved.status());
  for (const std::string& warning : control.warnings) job_.Warn(warning);
  for (const auto& [module, scheme] : schemes) {
    const auto found = solved->find(module);
    if (found == solved->end()) {
      return absl::InternalError(absl::StrCat("the solver left out ", module));
    }
    results[module].tensor = std::move(found->second);
  }
  RETURN_IF_ERROR(MeasureTogether(block, results));
  for (auto& [module, of] : results)
    WritePlainRows(of.tensor, block.Parameter(absl::StrCat(module, ".weight")));
  return absl::OkStatus();
}

absl::Status BlockJob::WriteTargets(CalibratedBlock& block, int64_t index) {
  const std::string name = TargetsName(index);
  Tell(index, absl::StrCat("block ", index + 1, ": outputs"));
  RETURN_IF_ERROR(RunThrough(block, name, false));
  return OpenTargets(name);
}

absl::Status BlockJob::OpenTargets(const std::string& name) {
  ASSIGN_OR_RETURN(auto targets,
                   ActivationFile::OpenOwn(sink_, name, tokens_, model_.hidden_size()));
  inputs_->SetTargets(std::move(targets));
  return absl::OkStatus();
}

absl::Status BlockJob::TuneBlock(CalibratedBlock& block, int64_t index, Results& results) {
  Tell(index, absl::StrCat("block ", index + 1, ": tuning"));
  std::map<std::string, QuantizedTensor> matrices;
  for (auto& [module, solved] : results) matrices[module] = std::move(solved.tensor);
  SolverControl control{.stopped = [this] { return job_.stopping(); }, .warnings = {}};
  const absl::Status tuned = tuner_->Tune(block, *inputs_, matrices, control);
  if (absl::IsCancelled(tuned)) return job_.Stopped();
  RETURN_IF_ERROR(tuned);
  for (const std::string& warning : control.warnings) {
    job_.Warn(absl::StrCat("block ", index + 1, ": ", warning));
  }
  for (auto& [module, solved] : results) {
    solved.tensor = std::move(matrices.at(module));
    const PlannedParameter& parameter = *Find(module);
    // What an earlier run has written it has reported.
    if (!sink_.IsComplete(parameter)) {
      ASSIGN_OR_RETURN(const Tensor weight, job_.ReadPlain(parameter));
      if (solved.samples != nullptr) {
        const auto error = OutputError(weight, solved.tensor, solved.samples->View().samples,
                                       [this] { return job_.stopping(); });
        if (absl::IsCancelled(error.status())) return job_.Stopped();
        RETURN_IF_ERROR(error.status());
        solved.layer.output_error = *error;
      }
      solved.layer.relative_error = RelativeError(weight, solved.tensor);
    }
    WritePlainRows(solved.tensor, block.Parameter(parameter.source.name));
  }
  inputs_->SetTargets(nullptr);
  return sink_.RemoveScratch(TargetsName(index));
}

absl::Status BlockJob::WriteKept(CalibratedBlock& block, const PlannedParameter& parameter) {
  const std::span<float> now = block.Parameter(parameter.source.name);
  // The block goes on with what is stored, whether this run stores it or an earlier one did.
  const auto round = [&](DType dtype) {
    Tensor rounded = ConvertTensor(
        TensorOf<float>(DType::kF32, parameter.source.shape, std::span<const float>(now)), dtype);
    LoadFloats(rounded.view(), 0, static_cast<int64_t>(now.size()), now.data());
    return rounded;
  };
  if (sink_.IsComplete(parameter)) {
    if (!now.empty()) round(parameter.kept_dtype);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(Tensor tensor, job_.ReadPlain(parameter));
  if (!now.empty()) {
    std::vector<float> before(now.size());
    LoadFloats(tensor.view(), 0, static_cast<int64_t>(before.size()), before.data());
    if (std::memcmp(before.data(), now.data(), now.size_bytes()) != 0) tensor = round(tensor.dtype);
  }
  return job_.Keep(parameter, Share(std::move(tensor)));
}

absl::Status BlockJob::WriteBlock(CalibratedBlock& block, int64_t index, const Results& results) {
  for (const PlannedParameter* parameter : blocks_[static_cast<size_t>(index)]) {
    if (job_.stopping()) return job_.Stopped();
    const auto solved = results.find(SplitParameterName(parameter->source.name).module);
    const bool quantized = parameter->scheme != nullptr && solved != results.end();
    if (parameter->scheme != nullptr && !quantized) {
      return absl::InternalError(
          absl::StrCat(parameter->source.name, " is no linear of its block"));
    }
    if (!quantized) {
      RETURN_IF_ERROR(WriteKept(block, *parameter));
    } else if (!sink_.IsComplete(*parameter)) {
      RETURN_IF_ERROR(job_.WriteQuantized(*parameter, solved->second.tensor, solved->second.layer));
    }
    RETURN_IF_ERROR(job_.Done(*parameter));
  }
  return absl::OkStatus();
}

absl::Status BlockJob::RunThrough(CalibratedBlock& block, const std::string& name, bool original) {
  ASSIGN_OR_RETURN(ActivationWriter file, ActivationWriter::Create(sink_, name));
  for (int64_t s = 0; s < inputs_->sequences(); ++s) {
    ASSIGN_OR_RETURN(const FloatBuffer hidden, inputs_->Read(s, original));
    const BlockPass pass = block.Run(BlockValue::kInput, hidden, BlockValue::kOutput);
    if (job_.stopping()) return job_.Stopped();
    RETURN_IF_ERROR(file.Append(pass[BlockValue::kOutput]));
  }
  return file.Seal();
}

absl::Status BlockJob::RunOn(CalibratedBlock& block, const std::string& name, StageValues& values) {
  ASSIGN_OR_RETURN(ActivationWriter file, ActivationWriter::Create(sink_, name));
  BlockPass pass;
  for (int64_t s = 0; s < inputs_->sequences(); ++s) {
    RETURN_IF_ERROR(values.Read(s, pass));
    block.Continue(pass, BlockValue::kOutput);
    if (job_.stopping()) return job_.Stopped();
    RETURN_IF_ERROR(file.Append(pass[BlockValue::kOutput]));
  }
  return file.Seal();
}

}  // namespace quantd
