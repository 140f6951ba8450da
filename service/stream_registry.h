// Every open stream, so that idle and stalled ones can be ended and a drain reaches them all.
#ifndef QUANTD_SERVICE_STREAM_REGISTRY_H_
#define QUANTD_SERVICE_STREAM_REGISTRY_H_

#include <chrono>
#include <mutex>
#include <set>

namespace quantd {

class OpenStream {
 public:
  virtual ~OpenStream() = default;
  // Called every quarter second; must not block. `draining`: end when nothing is in flight.
  virtual void Check(std::chrono::steady_clock::time_point now, bool draining) = 0;
  // Ends the stream with UNAVAILABLE: the time for running calls at a shutdown is over.
  virtual void Expire() = 0;
};

class StreamRegistry {
 public:
  void Add(OpenStream* stream);
  // Waits for a running Check of it.
  void Remove(OpenStream* stream);
  void CheckAll(bool draining);
  void ExpireAll();
  size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::set<OpenStream*> streams_;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_STREAM_REGISTRY_H_
