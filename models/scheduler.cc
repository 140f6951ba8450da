#include "models/scheduler.h"

#include <utility>

#include "models/scheduler_loop.h"

namespace quantd {

Scheduler::Scheduler(std::shared_ptr<Engine> engine, const SchedulerLimits& limits)
    : loop_(std::make_shared<SchedulerLoop>(std::move(engine), limits)),
      // The thread keeps the loop alive: it may outlast this object by the call that destroyed it.
      thread_([loop = loop_] { loop->Run(); }) {}

Scheduler::~Scheduler() {
  loop_->Stop();
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

absl::Status Scheduler::Submit(std::unique_ptr<Generation> generation) {
  return loop_->Submit(std::move(generation));
}

absl::Status Scheduler::Run(LogitsWork& work) {
  RETURN_IF_ERROR(loop_->Enqueue(&work));
  return work.Wait();
}

absl::Status Scheduler::Run(EncodeWork& work) {
  RETURN_IF_ERROR(loop_->Enqueue(&work));
  return work.Wait();
}

Model::Activity Scheduler::activity() const { return loop_->activity(); }

void Scheduler::Drain(absl::Time deadline) { loop_->Drain(deadline); }

}  // namespace quantd
