// Includes this library's header.
#include <netlib.h>

#include "string_options.hpp"
