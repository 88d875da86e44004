#define KSHOT_CONCAT2(a,b) a##b
namespace kshot { namespace KSHOT_ISA {
void twice(const float* in, float* out, long n) { for (long i=0;i<n;++i) out[i]=2*in[i]; }
}}
