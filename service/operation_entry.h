// What the store holds of one operation. Private to operations.cc and operation_queries.cc.
#ifndef QUANTD_SERVICE_OPERATION_ENTRY_H_
#define QUANTD_SERVICE_OPERATION_ENTRY_H_

#include <chrono>
#include <mutex>
#include <set>
#include <string>

#include "service/operations.h"

namespace quantd {

struct OperationStore::Operation {
  uint64_t number = 0;
  OperationSnapshot snapshot;
  std::string request_id;
  std::string fingerprint;
  Work work;
  JobControl control;
  std::chrono::steady_clock::time_point started{};
  // Guards `watchers` alone; taken without the store's lock, which callbacks may take.
  std::mutex watch_mutex;
  std::set<const Watcher*> watchers;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPERATION_ENTRY_H_
