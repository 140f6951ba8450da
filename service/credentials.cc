#include "service/credentials.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr unsigned kReloadSeconds = 20;

using File = std::unique_ptr<FILE, int (*)(FILE*)>;
using Certificate = std::unique_ptr<X509, void (*)(X509*)>;
using Key = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;

File OpenFile(const std::string& path) {
  return File(std::fopen(path.c_str(), "re"), [](FILE* f) { return f ? std::fclose(f) : 0; });
}

// An encrypted key would make OpenSSL ask on the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

absl::StatusOr<Certificate> ReadCertificate(absl::string_view flag, const std::string& path) {
  const File file = OpenFile(path);
  Certificate certificate(file ? PEM_read_X509(file.get(), nullptr, NoPassword, nullptr) : nullptr,
                          &X509_free);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": cannot be read or holds no PEM certificate"));
  }
  return certificate;
}

absl::Status CheckFiles(const ServerConfig& config) {
  ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate("--tls-cert", config.tls_cert));
  const File file = OpenFile(config.tls_key);
  const Key key(file ? PEM_read_PrivateKey(file.get(), nullptr, NoPassword, nullptr) : nullptr,
                &EVP_PKEY_free);
  if (key == nullptr) {
    return absl::InvalidArgumentError("--tls-key: cannot be read or holds no plain PEM key");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError("--tls-key does not belong to --tls-cert");
  }
  if (!config.tls_client_ca.empty()) {
    RETURN_IF_ERROR(ReadCertificate("--tls-client-ca", config.tls_client_ca).status());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerConfig& config) {
  if (config.tls_cert.empty()) {
    return grpc::InsecureServerCredentials();
  }
  RETURN_IF_ERROR(CheckFiles(config));
  namespace tls = grpc::experimental;
  const auto provider = std::make_shared<tls::FileWatcherCertificateProvider>(
      config.tls_key, config.tls_cert, config.tls_client_ca, kReloadSeconds);
  tls::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (config.tls_client_ca.empty()) {
    options.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  } else {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

}  // namespace quantd
