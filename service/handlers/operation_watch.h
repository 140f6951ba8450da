// WatchOperation: an operation's newest state, at most one per interval, until it ends.
#ifndef QUANTD_SERVICE_HANDLERS_OPERATION_WATCH_H_
#define QUANTD_SERVICE_HANDLERS_OPERATION_WATCH_H_

#include "google/longrunning/operations.pb.h"
#include "service/messages.h"
#include "service/stream.h"

namespace quantd {

class OperationWatch final : public ResponseStream<google::longrunning::Operation> {
 public:
  using ResponseStream::ResponseStream;

  void Watch(const std::string& name, absl::Duration interval) {
    name_ = name;
    interval_ = std::chrono::duration_cast<Clock::duration>(absl::ToChronoNanoseconds(interval));
    const auto self = std::static_pointer_cast<OperationWatch>(shared_from_this());
    auto handle = services().operations->Watch(
        name, [weak = std::weak_ptr(self), pending = pending_, &timer = services().timer] {
          // Runs under the watcher's lock: it only asks the timer's thread to look.
          if (!pending->exchange(true)) {
            timer.After({}, [weak] { Look(weak); });
          }
        });
    if (!handle.ok()) {
      Close(handle.status());
      return;
    }
    handle_ = *std::move(handle);
    *pending_ = true;
    Look(self);
  }

 private:
  static void Look(const std::weak_ptr<OperationWatch>& weak) {
    if (const auto self = weak.lock()) {
      self->Send();
    }
  }

  // On one thread at a time: `pending_` stays set from the wish to look until it is done.
  void Send() {
    if (closed()) {
      return;
    }
    const Clock::time_point now = Clock::now();
    const bool first = last_sent_ == Clock::time_point{};
    auto operation = services().operations->Get(name_);
    const bool done = operation.ok() && operation->done();
    if (!Drained() || (!first && !done && now - last_sent_ < interval_)) {
      const auto wait =
          std::max<Clock::duration>(last_sent_ + interval_ - now, std::chrono::milliseconds(20));
      services().timer.After(wait, [weak = std::weak_ptr(std::static_pointer_cast<OperationWatch>(
                                        shared_from_this()))] { Look(weak); });
      return;
    }
    pending_->store(false);  // a change from here on asks again
    operation = services().operations->Get(name_);
    if (!operation.ok()) {
      Close(operation.status());
      return;
    }
    if (first || operation->version != last_version_) {
      last_sent_ = now;
      last_version_ = operation->version;
      Push(ToMessage(*operation));
    }
    if (operation->done()) {
      Close(absl::OkStatus());
    }
  }

  std::string name_;
  Clock::duration interval_{};
  Clock::time_point last_sent_{};
  uint64_t last_version_ = 0;
  std::shared_ptr<std::atomic<bool>> pending_ = std::make_shared<std::atomic<bool>>(false);
  OperationStore::WatchHandle handle_;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_HANDLERS_OPERATION_WATCH_H_
