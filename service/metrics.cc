#include "service/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <exception>

#include "absl/strings/str_cat.h"
#include "core/cpu_quota.h"
#include "core/parallel.h"
#include "service/process.h"
#include "service/status.h"
#include "service/version.h"

namespace quantd {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

const Histogram::BucketBoundaries kCallSeconds = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800};
const Histogram::BucketBoundaries kTokenSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
                                                   0.1,   0.2,   0.5,   1,    2,    5};

std::string Text(absl::string_view text) { return std::string(text); }

Histogram::BucketBoundaries BatchBounds() {
  return {BatchSizes::kBounds.begin(), BatchSizes::kBounds.end()};
}

void FillHistogram(const BatchSizes& sizes, Histogram& histogram) {
  histogram.ObserveMultiple({sizes.steps.begin(), sizes.steps.end()},
                            static_cast<double>(sizes.sequences));
}

}  // namespace

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

// Gauges are filled by a collectable that asks for a snapshot when somebody scrapes.
struct Metrics::Impl : prometheus::Collectable {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  Family<Histogram>& calls = prometheus::BuildHistogram()
                                 .Name("quantd_rpc_server_call_duration_seconds")
                                 .Help("Time from a call's arrival to its status")
                                 .Register(*registry);
  Family<Counter>& jobs = prometheus::BuildCounter()
                              .Name("quantd_jobs_total")
                              .Help("Quantizations that ended")
                              .Register(*registry);
  Family<Histogram>& job_seconds = prometheus::BuildHistogram()
                                       .Name("quantd_job_duration_seconds")
                                       .Help("Time of a quantization")
                                       .Register(*registry);
  Family<Counter>& job_tensors = prometheus::BuildCounter()
                                     .Name("quantd_job_layers_total")
                                     .Help("Tensors that quantizations finished")
                                     .Register(*registry);
  Family<Counter>& job_bytes = prometheus::BuildCounter()
                                   .Name("quantd_job_bytes_total")
                                   .Help("Bytes that quantizations read and wrote")
                                   .Register(*registry);
  Family<Counter>& tokens = prometheus::BuildCounter()
                                .Name("quantd_tokens_total")
                                .Help("Tokens of prompts and of generated text")
                                .Register(*registry);
  Family<Histogram>& first_token = prometheus::BuildHistogram()
                                       .Name("quantd_time_to_first_token_seconds")
                                       .Help("Queue and prefill time of a generation")
                                       .Register(*registry);
  Family<Histogram>& per_token = prometheus::BuildHistogram()
                                     .Name("quantd_time_per_output_token_seconds")
                                     .Help("Decode time per generated token")
                                     .Register(*registry);
  std::function<MetricsSnapshot()> snapshot;
  std::unique_ptr<prometheus::Exposer> exposer;

  std::vector<prometheus::MetricFamily> Collect() const override;
};

std::vector<prometheus::MetricFamily> Metrics::Impl::Collect() const {
  prometheus::Registry gauges;
  const auto family = [&gauges](const char* name, const char* help) -> Family<Gauge>& {
    return prometheus::BuildGauge().Name(name).Help(help).Register(gauges);
  };
  const MetricsSnapshot now = snapshot ? snapshot() : MetricsSnapshot{};
  auto& weights = family("quantd_model_weight_bytes", "Packed weights of a loaded model");
  auto& kv = family("quantd_kv_cache_bytes", "Key/value caches held by a model");
  auto& kv_usage = family("quantd_kv_cache_usage_ratio",
                          "Key/value caches that sequences of a model have reserved, of the most "
                          "that they may");
  auto& batches = prometheus::BuildHistogram()
                      .Name("quantd_batch_size")
                      .Help("Sequences that a step of generation advanced together")
                      .Register(gauges);
  auto& running = family("quantd_requests_running", "Sequences in the batch of a model");
  auto& queued = family("quantd_requests_queued", "Sequences that wait for a place in the batch");
  for (const auto& model : now.models) {
    weights.Add({{"model", model.model}, {"method", model.quantization}})
        .Set(static_cast<double>(model.weight_bytes));
    kv.Add({{"model", model.model}}).Set(static_cast<double>(model.kv_bytes));
    kv_usage.Add({{"model", model.model}}).Set(model.kv_usage);
    FillHistogram(model.batches, batches.Add({{"model", model.model}}, BatchBounds()));
    running.Add({{"model", model.model}}).Set(model.running);
    queued.Add({{"model", model.model}}).Set(model.queued);
  }
  family("quantd_models_loaded", "Models in memory")
      .Add({})
      .Set(static_cast<double>(now.models.size()));
  auto& jobs_now = family("quantd_jobs", "Quantizations that have not ended");
  jobs_now.Add({{"state", "queued"}}).Set(now.jobs_queued);
  jobs_now.Add({{"state", "running"}}).Set(now.jobs_running);
  family("quantd_cpu_quota_cores", "CPUs that affinity and cgroup grant")
      .Add({})
      .Set(AvailableCpus());
  family("quantd_threads", "Compute threads").Add({}).Set(ComputeThreads());
  family("quantd_build_info", "Version").Add({{"version", kVersion}}).Set(1);
  const ProcessFacts process = ReadProcessFacts();
  family("process_resident_memory_bytes", "Resident memory")
      .Add({})
      .Set(static_cast<double>(process.resident_bytes));
  family("process_cpu_seconds_total", "CPU time, user and system").Add({}).Set(process.cpu_seconds);
  family("process_open_fds", "Open file descriptors").Add({}).Set(process.open_files);
  family("process_max_fds", "Most open file descriptors").Add({}).Set(process.max_files);
  family("process_start_time_seconds", "Start, seconds since the epoch")
      .Add({})
      .Set(process.start_time_seconds);
  return gauges.Collect();
}

Metrics::Metrics() : impl_(std::make_shared<Impl>()) {}
Metrics::~Metrics() { Stop(); }

absl::Status Metrics::Serve(const std::string& address, std::function<MetricsSnapshot()> snapshot) {
  impl_->snapshot = std::move(snapshot);
  try {
    impl_->exposer = std::make_unique<prometheus::Exposer>(address, 1);
    impl_->exposer->RegisterCollectable(impl_->registry);
    impl_->exposer->RegisterCollectable(impl_);
  } catch (const std::exception&) {
    impl_->exposer.reset();
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-listen ", Shown(address),
                     ": cannot listen there (port in use?); choose another or `off`"));
  }
  return absl::OkStatus();
}

int Metrics::port() const {
  if (impl_->exposer == nullptr) {
    return 0;
  }
  const std::vector<int> ports = impl_->exposer->GetListeningPorts();
  return ports.empty() ? 0 : ports[0];
}

void Metrics::Stop() { impl_->exposer.reset(); }

void Metrics::CallDone(absl::string_view method, absl::string_view code, double seconds) {
  impl_->calls.Add({{"method", Text(method)}, {"code", Text(code)}}, kCallSeconds).Observe(seconds);
}

void Metrics::JobDone(absl::string_view verb, absl::string_view state, double seconds,
                      int64_t tensors, uint64_t bytes_read, uint64_t bytes_written) {
  impl_->jobs.Add({{"verb", Text(verb)}, {"state", Text(state)}}).Increment();
  impl_->job_seconds.Add({{"verb", Text(verb)}}, kCallSeconds).Observe(seconds);
  impl_->job_tensors.Add({{"verb", Text(verb)}}).Increment(static_cast<double>(tensors));
  impl_->job_bytes.Add({{"direction", "read"}}).Increment(static_cast<double>(bytes_read));
  impl_->job_bytes.Add({{"direction", "written"}}).Increment(static_cast<double>(bytes_written));
}

void Metrics::GenerationDone(int prompt_tokens, int generated_tokens, double seconds_to_first_token,
                             double seconds_per_output_token) {
  impl_->tokens.Add({{"kind", "prompt"}}).Increment(prompt_tokens);
  impl_->tokens.Add({{"kind", "generated"}}).Increment(generated_tokens);
  impl_->first_token.Add({}, kTokenSeconds).Observe(seconds_to_first_token);
  if (generated_tokens > 0) {
    impl_->per_token.Add({}, kTokenSeconds).Observe(seconds_per_output_token);
  }
}

}  // namespace quantd
