// Streaming calls on the asynchronous API. One write and one read in flight; a bounded queue of
// responses with flow control for the producer; idle and stalled streams are ended; Finish happens
// exactly once, after what was queued is sent.
#ifndef QUANTD_SERVICE_STREAM_H_
#define QUANTD_SERVICE_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "service/call.h"
#include "service/status.h"

namespace quantd {

// The sending half, for server streams and bidirectional ones alike. Owned by itself until OnDone;
// producers hold a shared pointer, and what they call afterwards does nothing.
template <class Reactor, class Response>
class StreamBase : public Reactor,
                   public OpenStream,
                   public Call,
                   public std::enable_shared_from_this<StreamBase<Reactor, Response>> {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kHighWater = 512
                                       << 10;  // bytes queued from which the producer shall pause

  using Call::Call;

  // Queues a response. False: the client is gone or the stream is closed; stop.
  bool Push(Response response) {
    std::lock_guard lock(mutex_);
    if (gone_ || closing_.has_value()) {
      return false;
    }
    queued_bytes_ += response.ByteSizeLong();
    queue_.push_back(std::move(response));
    StartNext();
    return true;
  }
  // False: pause until the queue is shorter. True for a client that is gone, so that Push tells it.
  bool Ready() const {
    std::lock_guard lock(mutex_);
    return gone_ || closing_.has_value() || queued_bytes_ < kHighWater;
  }
  // True when everything pushed was taken by the transport.
  bool Drained() const {
    std::lock_guard lock(mutex_);
    return gone_ || queue_.empty();
  }
  bool closed() const {
    std::lock_guard lock(mutex_);
    return gone_ || closing_.has_value();
  }
  // Ends the stream after what is queued; the first status counts.
  void Close(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (!closing_.has_value()) {
      closing_ = status;
      FinishIfDone();
    }
  }

  // Keeps itself alive until OnDone. Call once, before anything else.
  void Open() {
    self_ = this->shared_from_this();
    last_activity_ = Clock::now();
    services().streams.Add(this);
  }

 protected:
  // Once, without locks, when the client has gone.
  virtual void OnGone() {}
  // Without locks, after each write while the stream is open.
  virtual void OnWritable() {}
  // Whether the stream may be silent without being idle: work is in progress for it.
  virtual bool Busy() const { return true; }

  void Touch() {
    std::lock_guard lock(mutex_);
    last_activity_ = Clock::now();
  }

 private:
  void OnWriteDone(bool ok) final {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      last_activity_ = Clock::now();
      queued_bytes_ -= queue_.front().ByteSizeLong();
      queue_.pop_front();
      if (!ok) {
        Abandon();
      }
      StartNext();
      FinishIfDone();
    }
    OnWritable();
  }

  void OnCancel() final {
    set_cancelled();
    {
      std::lock_guard lock(mutex_);
      Abandon();
      FinishIfDone();
    }
    OnGone();
  }

  void OnDone() final {
    services().streams.Remove(this);
    self_.reset();  // may be the end of this object
  }

  void Check(Clock::time_point now, bool draining) final {
    const auto limit = std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(services().config.stream_idle_seconds));
    const bool busy = Busy();
    std::lock_guard lock(mutex_);
    if (finished_) {
      return;
    }
    if (writing_ && now - last_activity_ > limit) {
      context()->TryCancel();  // a reader that does not read would not get a status either
      return;
    }
    if (busy || writing_ || closing_.has_value()) {
      return;
    }
    if (draining) {
      closing_ = absl::UnavailableError("the server is shutting down");
    } else if (now - last_activity_ > limit) {
      closing_ = absl::DeadlineExceededError(
          absl::StrCat("no message for ", services().config.stream_idle_seconds, " s"));
    }
    FinishIfDone();
  }

  void Expire() final {
    Close(absl::UnavailableError("the server is shutting down; try another one"));
  }

  // All of the following with the lock held.
  void Abandon() {
    gone_ = true;
    while (queue_.size() > (writing_ ? 1 : 0)) {
      queued_bytes_ -= queue_.back().ByteSizeLong();
      queue_.pop_back();
    }
  }
  void StartNext() {
    if (!writing_ && !queue_.empty() && !finished_) {
      writing_ = true;
      last_activity_ = Clock::now();
      this->StartWrite(&queue_.front());
    }
  }
  void FinishIfDone() {
    if (finished_ || writing_ || (!gone_ && !(closing_.has_value() && queue_.empty()))) {
      return;
    }
    finished_ = true;
    absl::Status status;
    if (!gone_ || (closing_.has_value() && !closing_->ok())) {
      status = *closing_;
    } else if (deadline() <= absl::Now()) {
      status = absl::DeadlineExceededError("the deadline passed");
    } else {
      status = absl::CancelledError("the client cancelled the call");
    }
    this->Finish(End(status));
  }

  mutable std::mutex mutex_;
  std::deque<Response> queue_;
  size_t queued_bytes_ = 0;
  bool writing_ = false;
  bool gone_ = false;
  bool finished_ = false;
  std::optional<absl::Status> closing_;
  Clock::time_point last_activity_;
  std::shared_ptr<StreamBase> self_;
};

// A server stream; the producer keeps a shared pointer.
template <class Response>
class ResponseStream : public StreamBase<grpc::ServerWriteReactor<Response>, Response> {
 public:
  using Base = StreamBase<grpc::ServerWriteReactor<Response>, Response>;
  using Base::Base;

  // Opened; closed again at once when the caller may not (then Push returns false).
  static std::shared_ptr<ResponseStream> Make(ServiceContext& services,
                                              grpc::CallbackServerContext* context,
                                              const char* method, Access access) {
    auto stream = std::make_shared<ResponseStream>(services, context, method);
    stream->Open();
    if (const absl::Status status = stream->Admit(access); !status.ok()) {
      stream->Close(status);
    }
    return stream;
  }
};

// A bidirectional stream. OnMessage and OnHalfClose are reactions: they must not block.
template <class Request, class Response>
class DuplexStream : public StreamBase<grpc::ServerBidiReactor<Request, Response>, Response> {
 public:
  using Base = StreamBase<grpc::ServerBidiReactor<Request, Response>, Response>;
  using Base::Base;

 protected:
  // False: no further message now; ReadNext goes on.
  virtual bool OnMessage(Request& message) = 0;
  virtual void OnHalfClose() = 0;

  void ReadNext() {
    message_.Clear();
    this->StartRead(&message_);
  }

 private:
  void OnReadDone(bool ok) final {
    this->Touch();
    if (!ok) {
      OnHalfClose();
    } else if (OnMessage(message_) && !this->closed()) {
      ReadNext();
    }
  }

  Request message_;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_STREAM_H_
