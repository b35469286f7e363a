#include "a.h"
#include <string>
#include <vector>

namespace {
struct Named {
    std::string name;
    int value;
};
}

template <typename T> T total(const std::vector<T> &values)
{
    T sum{};
    for (const T &value : values)
        sum += value;
    return sum;
}

int count(const std::vector<int> &values)
{
    Named named{"x", A};
    return total(values) + named.value + static_cast<int>(named.name.size());
}
