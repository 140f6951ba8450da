#include "service/stream_registry.h"

namespace quantd {

void StreamRegistry::Add(OpenStream* stream) {
  std::lock_guard lock(mutex_);
  streams_.insert(stream);
}

void StreamRegistry::Remove(OpenStream* stream) {
  std::lock_guard lock(mutex_);
  streams_.erase(stream);
}

void StreamRegistry::CheckAll(bool draining) {
  const auto now = std::chrono::steady_clock::now();
  std::lock_guard lock(mutex_);
  for (OpenStream* stream : streams_) {
    stream->Check(now, draining);
  }
}

void StreamRegistry::ExpireAll() {
  std::lock_guard lock(mutex_);
  for (OpenStream* stream : streams_) {
    stream->Expire();
  }
}

size_t StreamRegistry::size() const {
  std::lock_guard lock(mutex_);
  return streams_.size();
}

}  // namespace quantd
