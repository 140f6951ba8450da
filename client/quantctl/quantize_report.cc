#include "client/quantctl/quantize_report.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/quantctl/text.h"

namespace quantd::ctl {
namespace {

constexpr size_t kWorstLayers = 3;

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string Rate(const quant::v1::Progress& progress) {
  const double seconds = absl::ToDoubleSeconds(ToDuration(progress.elapsed()));
  if (seconds <= 0) return "";
  return HumanBytes(static_cast<int64_t>(progress.bytes_done() / seconds)) + "/s";
}

void PrintWorstLayers(const quant::v1::QuantizeReport& report) {
  std::vector<const quant::v1::LayerReport*> layers;
  for (const quant::v1::LayerReport& layer : report.layers()) {
    if (layer.relative_error() > 0) layers.push_back(&layer);
  }
  const size_t shown = std::min(kWorstLayers, layers.size());
  std::partial_sort(
      layers.begin(), layers.begin() + shown, layers.end(),
      [](const auto* a, const auto* b) { return a->relative_error() > b->relative_error(); });
  for (size_t i = 0; i < shown; ++i) {
    std::printf("  %s  %s  relative error %.4f\n", layers[i]->name().c_str(),
                layers[i]->scheme().c_str(), layers[i]->relative_error());
  }
}

}  // namespace

Client::ProgressCallback JobProgress::callback() {
  return [this](const quant::v1::Progress& progress) {
    if (progress.tensors_total() == 0) return;
    std::string note = progress.current_tensor();
    if (progress.blocks() > 0) {
      note = absl::StrCat("block ", progress.block(), " of ", progress.blocks(), "  ", note);
    }
    if (progress.has_current_output_error()) {
      absl::StrAppend(&note, " output error ",
                      absl::StrFormat("%.4f", progress.current_output_error()));
      if (progress.has_current_rounding_output_error()) {
        absl::StrAppend(&note, " (rounding ",
                        absl::StrFormat("%.4f", progress.current_rounding_output_error()), ")");
      }
    } else if (progress.has_current_relative_error()) {
      absl::StrAppend(&note, " error ", absl::StrFormat("%.4f", progress.current_relative_error()));
    }
    const absl::Duration eta = progress.has_eta() ? ToDuration(progress.eta()) : absl::Seconds(-1);
    bar_->Update(progress.tensors_done(), progress.tensors_total(), Rate(progress), eta, note);
  };
}

absl::Status PrintReport(Context& context, const absl::StatusOr<quant::v1::QuantizeReport>& report,
                         JobProgress& progress) {
  progress.End();
  if (!report.ok()) return report.status();
  if (context.json()) {
    context.PrintJson(*report);
    return absl::OkStatus();
  }
  std::printf("%s: %s -> %s, %.2f bits per weight, mean relative error %.4f\n",
              report->output_name().c_str(), HumanBytes(report->source_bytes()).c_str(),
              HumanBytes(report->output_bytes()).c_str(), report->bits_per_weight(),
              report->mean_relative_error());
  const std::string& device = report->calibration_device();
  std::printf("%s, peak memory %s%s\n", HumanDuration(ToDuration(report->elapsed())).c_str(),
              HumanBytes(report->peak_memory_bytes()).c_str(),
              device.empty() ? "" : absl::StrCat(", calibrated on ", device).c_str());
  PrintWorstLayers(*report);
  for (const std::string& warning : report->warnings()) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  return absl::OkStatus();
}

absl::Status PrintStarted(Context& context,
                          const absl::StatusOr<google::longrunning::Operation>& operation) {
  if (!operation.ok()) return operation.status();
  if (context.json()) {
    context.PrintJson(*operation);
  } else {
    std::printf("%s\nfollow it with: quantctl operations watch %s\n", operation->name().c_str(),
                operation->name().c_str());
  }
  return absl::OkStatus();
}

}  // namespace quantd::ctl
