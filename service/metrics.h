// Prometheus metrics of the server, prefix quantd_, base units.
#ifndef QUANTD_SERVICE_METRICS_H_
#define QUANTD_SERVICE_METRICS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "models/batch_sizes.h"

namespace quantd {

// What is read when somebody scrapes.
struct MetricsSnapshot {
  struct ModelUse {
    std::string model;
    std::string quantization;
    uint64_t weight_bytes = 0;
    uint64_t kv_bytes = 0;
    double kv_usage = 0;  // of the caches that the model may ever hold, the part that is reserved
    int running = 0;
    int queued = 0;
    BatchSizes batches;
  };
  std::vector<ModelUse> models;
  int jobs_queued = 0;
  int jobs_running = 0;
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Opens the port; INVALID_ARGUMENT when it cannot. `snapshot` is called from the scraping thread.
  absl::Status Serve(const std::string& address, std::function<MetricsSnapshot()> snapshot);
  // The port of Serve, 0 without.
  int port() const;
  void Stop();

  void CallDone(absl::string_view method, absl::string_view code, double seconds);
  // state: "succeeded", "failed", "cancelled", "interrupted".
  void JobDone(absl::string_view verb, absl::string_view state, double seconds, int64_t tensors,
               uint64_t bytes_read, uint64_t bytes_written);
  void GenerationDone(int prompt_tokens, int generated_tokens, double seconds_to_first_token,
                      double seconds_per_output_token);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// "OK", "NOT_FOUND", ...
std::string CodeName(absl::StatusCode code);

}  // namespace quantd

#endif  // QUANTD_SERVICE_METRICS_H_
