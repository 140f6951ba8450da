// Tells whether a model's files are still those that were loaded.
#ifndef QUANTD_SERVICE_MODEL_FINGERPRINT_H_
#define QUANTD_SERVICE_MODEL_FINGERPRINT_H_

#include <string>

#include "formats/model_root.h"

namespace quantd {

// Identity of a model's files: changes when a file of it is replaced, added or removed.
std::string FingerprintOf(const ModelRoot& root, const std::string& name);

}  // namespace quantd

#endif  // QUANTD_SERVICE_MODEL_FINGERPRINT_H_
