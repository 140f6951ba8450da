// Operations on disk: one small hidden file `.OUTPUT.operation` in the model root beside the
// partial output, so that a restarted server can list what was interrupted and can be resumed.
#ifndef QUANTD_SERVICE_OPERATION_RECORDS_H_
#define QUANTD_SERVICE_OPERATION_RECORDS_H_

#include <memory>

#include "formats/model_root.h"
#include "service/operations.h"

namespace quantd {

// Sweeps stale partial outputs of the root when LoadInterrupted is called. A root that cannot be
// written to is served all the same, without records.
std::unique_ptr<OperationRecords> NewOperationRecords(std::shared_ptr<const ModelRoot> root);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPERATION_RECORDS_H_
